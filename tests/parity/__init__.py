"""The data of the parity page, the rules that it must keep, and the page itself."""
