"""Networks and their configurations: no files, downloads or printing here."""
