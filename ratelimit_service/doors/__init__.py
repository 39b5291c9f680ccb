"""How calls come in. What both doors share is here; each door has its folder."""
