"""Results of reads: jobs that give them as Arrow, and what is written of them."""
