"""What a build will take: memory, disk and time of every stage, before anything is built."""
