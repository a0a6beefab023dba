"""How many coding agents does an endpoint carry inside each SLO tier?"""

__version__ = "0.1.0"
