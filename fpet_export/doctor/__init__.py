"""What this machine has and lacks, finding by finding."""
