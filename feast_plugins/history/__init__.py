"""Point-in-time reads of feature views: which rows answer which entity row, and where that is found out."""
