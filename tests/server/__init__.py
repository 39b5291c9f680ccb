"""The processes of a server: who watches whom, and how they leave."""
