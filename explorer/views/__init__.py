"""Every picture of a search or of one simulation: what was found goes in, a figure and the sentence above it come out.

    study_data, run_data     what a results folder or one simulation holds, as tables
    view, look               what a view is; palette, axes and words that all of them share
    pareto ... refused       the views of a study (S)
    speed ... layout_picture the views of one simulation (R)
    index                    the tables of all views, in the order in which pages show them

A view is three pure functions: data to a table, table to figure, table to text. Figure and text come from the same
table, so that a test of one is a test of the other. Pages (`explorer.report`) and the dashboard only put them up.
"""
