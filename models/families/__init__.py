"""Model families, one file each; `models/catalog.py` names them and imports none."""
