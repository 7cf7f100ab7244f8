"""Reservoir physics on plain arrays: the capacitance-resistance model of a field under water flood."""

from nightcast.physics.crm import fit_crm
from nightcast.physics.model import Crm
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import Waterflood

__all__ = ["Crm", "CrmParams", "Waterflood", "fit_crm"]
