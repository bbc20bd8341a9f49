"""The contents and format of an archive: the container, encryption, tables, files, and keys."""
