"""Measuring: the judge, distances, intervals, heat-map scores."""
