"""One module for each program that Barque is compared with."""
