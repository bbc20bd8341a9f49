"""What an archive holds and how it is written: the container, encryption, tables, files and keys."""
