"""The bodies of the commands of `trainer`, one file a job."""
