"""What the documentation site is made of beside its hand-written pages.

Each module makes text and knows nothing of the site generator; `docs/hooks.py` gives it to MkDocs. Nothing that is made
here is committed, but the pictures, which the repository's own pages show, too: `python docs/making/pictures.py`.

    links      files of the repository that pages link to become pages, and links to them stay links
    models     a page for each card of `diffacet.models`
    results    figures of a model, and the list of all tables, from benchmarks/results
    commands   a page for each command
    python     a page for each public module
    symbols    the symbols of all models, for the glossary
    pictures   the pictures that are computed
"""
