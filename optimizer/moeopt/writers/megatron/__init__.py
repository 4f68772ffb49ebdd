"""What launches of Megatron-LM and Megatron-Bridge share: the arguments of an architecture and of sharding."""
