"""What predicts: the network, the vocabulary, the components and the mixture. No Kafka, no clock."""
