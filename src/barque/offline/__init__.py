"""Tools for a data directory that no node runs in: inspection, backup, snapshots as files.

It uses the codecs and the recovery of `log` and `runtime`, so that a tool and a node never disagree.

Read in this order: `trial_disk` (a disk whose writes stay in memory), `findings`,
`inspection` (every file, and whether a node would start), `surroundings` (owners, modes, space),
`snapshot_files`, `backup_format` beside docs/formats/backup.md, `backup`.

It never writes into a data directory that exists, and holds no lock.
"""
