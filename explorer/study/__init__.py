"""What a search is asked: the study file and its parts."""
