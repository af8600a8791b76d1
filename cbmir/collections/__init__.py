"""What is done with whole collections: listed, made, copied, switched, pruned, kept."""
