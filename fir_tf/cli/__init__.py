"""The scripts: flags -> one config object -> one library call."""
