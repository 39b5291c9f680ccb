"""What a person sees of each thing, one kind of thing per file."""
