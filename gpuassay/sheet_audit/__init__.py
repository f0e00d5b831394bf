"""What a sheet says, held against itself, other sheets and public rules: no measurement is needed here."""
