"""Features into any scikit-learn estimator.

featcache extract --model pixels --dataset brain_regions
python examples/scikit_learn.py
"""

from sklearn.ensemble import RandomForestClassifier

import featcache

store = featcache.open("brain_regions", model="pixels")
X, y = store.arrays(split="train", features="cls", target="region")
X_test, y_test = store.arrays(split="test", features="cls", target="region")
forest = RandomForestClassifier(n_estimators=50, random_state=0).fit(X, y)
print(f"accuracy on {len(y_test)} crops: {forest.score(X_test, y_test):.3f} (chance 0.125)")
