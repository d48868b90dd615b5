"""A private view for a program that reads much at once: folders, small files and disks as pieces, side by side.

`python -m triune.host.staging.stage` makes the view in a mount namespace of its own and runs the program there. It ends
with the program, and with the process that started it, and nothing is left: no mount is ever seen by the host.
"""
