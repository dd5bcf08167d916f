"""What leaves the system: a field as a textured GLB, a colored PLY, a turntable and a contact sheet.

Exporters know only `sar3d.vqvae.field.Field`. `config` imports no torch; `export.export_object` writes all files of
one object, and `mesh`, `texture`, `files` and `turntable` hold the parts.
"""
