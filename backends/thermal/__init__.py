"""Heat in stacked chips: floorplans, layers and packages as HotSpot has them, and a solver of their RC network."""
