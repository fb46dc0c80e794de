"""What an evaluated program is made of: its ops, its collectives, the links they use, its price."""
