"""Several processes that serve as one (`service.workers`): the crew, its members, what they say."""
