"""lepton_pipe: declarative pipelines over terabytes of images."""
