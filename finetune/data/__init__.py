"""From the user's files to tokens: read → formats → check → split → encode → prepare → preview."""
