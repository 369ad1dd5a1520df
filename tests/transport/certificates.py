"""Certificates for tests: authorities of trustme, and leaves with any names and dates."""

import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from barque.config import NodeConfig, TlsConfig

DAY = datetime.timedelta(days=1)


class Authority:
    """An authority, and the files that it has written."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.ca = trustme.CA()
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(self.ca.cert_pem.bytes())

    def issue(
        self, file: str, *, dns: tuple[str, ...] = (), uris: tuple[str, ...] = (), days: int = 1
    ) -> Path:
        """Write a certificate and its key; it is expired if `days` is negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        issuer = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        names = [*(x509.DNSName(n) for n in dns), *(x509.UniformResourceIdentifier(u) for u in uris)]
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
        )
        path = self.directory / f"{file}.pem"
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        self.key_of(path).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return path

    @staticmethod
    def key_of(certificate: Path) -> Path:
        """The key's path."""
        return certificate.with_suffix(".key")


def tls_of(ca: Path, certificate: Path, *, required: bool = False) -> TlsConfig:
    """The settings of a node that shows this certificate."""
    key = Authority.key_of(certificate)
    return TlsConfig(str(certificate), str(key), str(ca), client_cert_required=required)


def config_of(name: str, tls: TlsConfig | None, **others: str) -> NodeConfig:
    """A configuration that only its credentials are read of."""
    return NodeConfig(name=name, data_dir="", nodes={}, tls=tls, **others)
