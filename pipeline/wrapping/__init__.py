"""The wrap stage: a checkpoint becomes an exported program."""
