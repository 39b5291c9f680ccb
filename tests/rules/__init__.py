"""Tests of descriptor rules: the tree, the decision, the storage, the importer, and the commands."""
