"""Models and trainings on disk and on the hub: nothing that a lesson explains, and nothing that learns."""
