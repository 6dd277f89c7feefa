"""Where traffic comes in. Siblings never import one another; `rekeyd.server` joins them."""
