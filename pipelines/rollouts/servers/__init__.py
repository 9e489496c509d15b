"""vLLM servers behind the interface of an engine: started, spoken to, watched, restarted."""
