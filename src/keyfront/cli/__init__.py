"""The `keyfront` command: parse options, call the other packages, print. One file per group of commands.

Commands hold no rules. Each builds a settings value from its options and passes it on, so that a program can do the
same without the command line.
"""
