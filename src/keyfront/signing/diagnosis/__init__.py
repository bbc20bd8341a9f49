"""How `explain` finds the cause of a refused signature: search over known signer mistakes."""
