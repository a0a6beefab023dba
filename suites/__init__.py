"""Ready-made tests of an endpoint.

In a checkout: ``pytest suites/``. Installed: ``pytest --pyargs pytest_agentperf.suites``.
"""
