"""What several tests share: certificates made to measure, and real clients."""
