"""Practice: exercises that check themselves, and what a learner has solved."""
