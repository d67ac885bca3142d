"""Answers as learners write them, planted to test the checks: for each exercise right ones, each written differently, and wrong
ones, each with words of the sentence that it must get."""
