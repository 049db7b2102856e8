"""Any answerer behind the OpenAI protocol: base models, changed ones, and those that answer from documents."""
