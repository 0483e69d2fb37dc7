"""What a program costs in FLOPs, bytes and collectives, and the limits of the chips it runs on."""
