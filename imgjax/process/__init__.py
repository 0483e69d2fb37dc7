"""What a process is told: peers, backend, when to stop; its lock, its watchdog, its terminal."""
