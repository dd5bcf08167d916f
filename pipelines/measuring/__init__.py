"""What the stages that compare systems share: networks that look at pictures, rows to lines with intervals, tables, plots."""
