"""HTTP/1.1 as values: heads are judged and rewritten here. Pure, as `rekeyd.trust` is."""
