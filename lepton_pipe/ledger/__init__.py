"""What is known to be done: receipts of blocks, their keys, and who may write."""

KNOWN = ".lepton"
"""Folder, in staging and in an output, of what is known about how it was made."""
LEDGER = "ledger.sqlite"
"""The ledger in that folder."""
JOURNAL = "journal"
"""The folder in it where workers leave receipts, a folder for each stage."""
