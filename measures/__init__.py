"""What is measured of a clip: CLIP, PickScore, flow, tracks, a judge beside known truth; and what tables of it say."""
