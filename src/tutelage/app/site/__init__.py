"""The static site: the catalogue, what was recorded, and the docs, as pages that load nothing from elsewhere.

`build_site` writes it, `serve.serve_site` shows it on this machine. Nothing heavy is imported: no torch, no matplotlib.
"""

from tutelage.app.site.build import SiteSummary, build_site, find_docs

__all__ = ["SiteSummary", "build_site", "find_docs"]
