"""`finetune choose`: which method, if any, fits a problem, its rows and this machine.

settings and rows → what is known → questions or assumptions → Situation → decide → Advice → commands
"""
