"""What a program costs: FLOPs, bytes, collectives, and the chips that they are compared with."""
